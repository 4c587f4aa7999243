"""What only the --help of a command says."""

RUN = """\
DATA has what Kaggle gives: train.csv and sample-submission.csv, whose column names are read from
it, and photos as train.zip and test.zip or as folders, flat or one folder a class; ids with or
without folder and extension, labels of any kind. A run folder is for one run at a time.

What a run leaves in OUT:
  submission.csv, .json   a row for each id of the sample submission, in its order; what made it
                          and its validation accuracy. What another run has left there is kept
                          as submission.earlier1.csv and so on
  report.html             every picture with what it shows, the tables, epochs and settings
  augmentation.png, audit.png, boxes.png
                          augmented photos; dropped and odd ones; what photos are cut to
  confusion.png, errors.png, tta_curve.png
                          which classes are taken for which; the most confident errors;
                          accuracy against the number of views
  labels.csv, suspicious.png
                          photos whose given label the votes contradict with near-certainty
  result.json, config.json, progress.jsonl
                          the result with settings, versions and the source's hash; every event
  photos.csv, audit.csv   photos and their split (fold: 0 validation, 1 training, -1 test; with
                          folds=5 the fold that validates on the photo, 1 to 5); findings
  pseudo.csv              with pseudo: the test photos that got a label, with their votes
  member1/ and so on      of each network (with folds in member1/fold1/, after pseudo-labels in
                          member1/pseudo/, what a refit adds in member1/refit/):
    votes_validation.npz, votes_test.npz
                          probs (views, photos, classes) float32, ids, labels (-1: unknown),
                          n_views (views that count, by photo)
    history.csv, curves.png
                          loss and accuracy after each epoch
    matrix.png, agreement.png, disputed.png, trade_off.png
                          what the views said of each photo
    best.weights.h5, last.weights.h5
                          the best epoch of the last stage, and its last
    state/, steps.json    what to go on from, and what is done

A run that was stopped (Ctrl-C, SIGTERM, a power cut) goes on when the same command is given again,
from its last whole epoch. A changed setting redoes only what depends on it, and the log says which
setting that was. Memory that runs out on a device halves the batch and the learning rate. Several
hosts train as one with JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
"""
BOXES = """\
A network that knows ImageNet's classes says where in a photo it sees a car; the box is drawn around
that place. Any other detector's boxes will do too: a CSV file with the columns id, left, top,
right, bottom (px of the upright photo; empty: nothing found), source (train or test) where an id
is of both, and score, whose highest row counts where a photo has several.
"""
STUDY = """\
Each arm is trained with the same seeds as the settings as they are (the base); every training is a
run of its own below OUT/study, without test-time views and refit. The table has mean ± 95 %
interval over seeds, the difference to the base of the same seed, and a verdict, which may be
"unresolved". An arm gets no verdict if one of its trainings, or the base's of the same seed, was
cut short, diverged or ran out of memory, or was made from other photos, by other code or on another
machine. Stopped, the same command goes on; further arms and seeds join those that are there.
"""
TUNE = """\
Candidates, the settings as they are first, train for two epochs at a small size; each rung keeps
about a third for a larger size, where they go on, and drops on evidence: paired by photo, on the
same validation photos. The best three and the settings as they are then train anew with two seeds
each, and are compared on photos kept apart from all choosing. The verdict may be to keep the
settings as they are. OUT/tune has tune.html, tune.csv (a row a trial) and tuned.json, which
`carcls run tuned=OUT/tune/tuned.json` takes. Stopped, the same command goes on; given twice at
once, two processes share the work (CUDA_VISIBLE_DEVICES gives each a GPU of its own).
"""
PUSH = """\
build/kernel gets kernel.py with these settings in its SETTINGS, and kernel-metadata.json with your
user name, inputs and accelerator, checked against Kaggle's rules. Log in once: kaggle auth login
(or kaggle.json, or KAGGLE_USERNAME and KAGGLE_KEY). A title that is taken is changed by --title.
Without a quota for accelerators, --accelerator cpu runs on the processor alone, which takes long.
A kernel that does not find the accelerator that it was pushed for stops in its first second; with
accelerator=any among the settings it runs on what there is.
"""
WATCH = """\
The output is downloaded to build/output/SLUG, also of a kernel that failed: what it had until then,
which is not submitted. While Kaggle does not answer, or is busy, it asks again, for hours. With
--submit it waits up to a quarter of an hour for the public score.
"""
