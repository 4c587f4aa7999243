# make run [DATA=folder] [OUT=folder] [SET="key=value key=value"]   the main job; without DATA on the drawn sample
# make test      the tests              make check    format, lint, types, kernel.py fresh; changes nothing
# make kernel    bundle kernel.py       make bench    speed against references
# make push [SET="…"] [ACCELERATOR=t4|tpu] [TITLE="…"] [DATASET="owner/slug …"] [EARLIER=owner/slug]   push kernel.py to Kaggle, with these settings
# make watch [SUBMIT=1] [KERNEL=owner/slug]   follow it, download its output; SUBMIT=1: send submission.csv to the competition
# make dataset [SET="…"]                upload weights that no Kaggle model has, and boxes
PYTHON ?= python3
PY := .venv/bin/python
# The CPU build of TensorFlow where there is no NVIDIA GPU.
TF := $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)

.PHONY: run test check format kernel push watch dataset bench preview clean

run: .venv/ready
	@$(PY) -m carcls run $(if $(DATA),--data "$(DATA)") $(if $(OUT),--out "$(OUT)") $(SET)

preview: .venv/ready
	@$(PY) -m carcls preview $(if $(DATA),--data "$(DATA)") $(if $(OUT),--out "$(OUT)") $(SET)

test: .venv/ready
	@$(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: .venv/ready
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@$(PY) -m carcls kernel --check
	@echo "check: all good"

format: .venv/ready
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

kernel: .venv/ready
	@$(PY) -m carcls kernel

push: .venv/ready
	@$(PY) -m carcls push $(if $(ACCELERATOR),--accelerator "$(ACCELERATOR)") $(if $(TITLE),--title "$(TITLE)") $(foreach dataset,$(DATASET),--dataset "$(dataset)") $(if $(EARLIER),--kernel "$(EARLIER)") $(SET)

watch: .venv/ready
	@$(PY) -m carcls watch $(KERNEL) $(if $(SUBMIT),--submit)

dataset: .venv/ready
	@$(PY) -m carcls dataset $(SET)

bench: .venv/ready
	@$(PY) -m carcls bench $(if $(DATA),--data "$(DATA)") $(if $(LARGE),--large "$(LARGE)")

# A second call installs nothing. The weights are made once, into the cache of the user.
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 13) else f"carcls needs Python 3.11 or 3.12, found {v[0]}.{v[1]}; make PYTHON=python3.12 …")'
	@echo "set-up: .venv with TensorFlow for $(TF), once, some minutes"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check -e ".[$(TF),weights,dev]"
	@TF_CPP_MIN_LOG_LEVEL=3 $(PY) -m carcls weights
	@touch $@

# What runs have left, out and build/output, stays.
clean:
	rm -rf .venv build/kernel build/dataset *.egg-info
