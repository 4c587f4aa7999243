"""What only the --help of a command says."""

RUN = """\
DATA has what Kaggle gives: train.csv and sample-submission.csv, and photos as train.zip and
test.zip or as folders, flat or one folder a class; ids with or without folder and extension, labels
of any kind. The sample submission decides what is written: labels, the probability of one of two
classes, or a column of probabilities a class. A run folder is for one run at a time.

What a run leaves in OUT:
  submission.csv, .json   a row for each id of the sample submission, in its order; what made it
                          and its score on validation. What another run has left there is kept
                          as submission.earlier1.csv and so on
  report.html             the score, what is worth knowing, every picture and table, all settings
  augmentation.png, audit.png, boxes.png
                          augmented photos; dropped and odd ones; what photos are cut to
  confusion.png, errors.png, tta_curve.png, calibration.png
                          which classes are taken for which; the most confident errors;
                          accuracy against the number of views; with metric=log_loss, how sure
                          predictions are against how often they are right
  errors.csv              every validation photo that is predicted wrongly, the highest loss first:
                          true and predicted class, their probabilities, and the views' votes
  labels.csv, suspicious.png
                          photos whose given label the votes contradict with near-certainty
                          (of what there is nothing to see, no picture is left)
  result.json, config.json, progress.jsonl
                          the result with settings, versions and the source's hash; every event
  classes.json            the classes, in the order of probs in the votes
  classes.png, sizes.png, light.png, examples.png, similar.png, similar.csv, look.json
                          what is in the data, as `carcls look` shows it
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
    state/, steps.json, member.json
                          what to go on from, what is done, which networks count

A run that was stopped (Ctrl-C, SIGTERM, a power cut) goes on when the same command is given again,
from its last whole epoch. A changed setting redoes only what depends on it, and the log says which
setting that was. Memory that runs out on a device halves the batch and the learning rate. Several
hosts train as one with JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
"""
PREDICT = """\
The run's networks, views, gate and blend say of each photo what they would have submitted for it.
The columns of the table: photo (its path), class, probability (of that class), agreement (the share
of all views that put it first), note (what is odd about the file), and a column for each class with
its probability. A photo that cannot be read has a row with the reason, and no class. The run folder
may have moved, and nothing is written into it. In a notebook: from carcls import predict, then
predict(RUN, PHOTOS), which returns the table.
"""
EXPORT = """\
Each file is one network: photos (B, HEIGHT, WIDTH, 3) of its size in, RGB, 0 to 255, uint8 or
float; probabilities (B, classes) out, of one view. It is of Keras's own layers:
keras.saving.load_model(FILE) needs neither carcls nor another package. The classes, the size and
how photos were brought to it are in it as classes.json:
json.loads(zipfile.ZipFile(FILE).read("classes.json")). Of folds and members the run takes the mean
or a blend, which its result.json says.
"""
LOOK = """\
It trains nothing and needs no weights: seconds for 20,000 photos. OUT gets look.html, its pictures,
audit.csv, classes.json, photos.csv (the split) and similar.csv: pairs of photos that show the same
picture in files that differ (resized, encoded anew or mirrored; not cut or without colours), with
their labels and sides of the split, and in how many of 63 bits their hashes differ. Of hundreds
that are nearly the same, such as a film's frames, each is compared with some. Of the settings,
data, out, competition, seed, val_fraction and folds count.
"""
BOXES = """\
A network that knows ImageNet's classes says where in a photo it sees a car; the box is drawn around
that place. Any other detector's boxes will do too: a CSV file with the columns id, left, top,
right, bottom (px of the upright photo; empty: nothing found), source (train or test) where an id
is of both, and score, whose highest row counts where a photo has several.
"""
STUDY = """\
Each arm is trained with the same seeds as the settings as they are (the base), in a folder of its
own below OUT/study; validation photos are seen as they are, and no test photo is predicted. The
table has mean ± 95 % interval over seeds, the difference to the base of the same seed, photo by
photo, and a verdict, which may be "unresolved". An arm gets no verdict if one of its trainings, or
the base's of the same seed, diverged or ran out of memory, or was made from other photos, by other
code or on another machine. Stopped, the same command goes on; further arms and seeds join those
that are there.
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
--submit it waits up to a quarter of an hour for the public score. With --page the events of its log
are kept in the folder monitor, from which a page shows them on this machine: the kernel needs no
internet for it.
"""
MONITOR = """\
The page, what is posted and everything else lie below an address with a random token, which is
printed and kept in FOLDER/token (mode 600), so that it stays the same after a restart. Whoever has
the address reads and posts. It listens at this machine alone unless --host says otherwise; nothing
is encrypted.

Runs post to it with monitor_url=ADDRESS, any Keras script with
keras.callbacks.RemoteMonitor(root=ADDRESS); of two scripts at once each gets a name of its own:
RemoteMonitor(root=ADDRESS, path="/publish/epoch/end/?run=NAME"). Run folders that are named are
followed by their progress.jsonl, whoever writes it.

FOLDER/RUN/progress.jsonl has the events of a run that were posted, one a line, FOLDER/RUN/pictures
its pictures. A post has at most 64 kB; FOLDER takes 200 runs of 32 MB. Ctrl-C ends it.
"""
