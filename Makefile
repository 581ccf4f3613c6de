PYTHON ?= python3
BIN := .venv/bin
# make bench CIFAR10=path/to/cifar10.tar.xz: train/<class>/*.jpg and test/<class>/*.jpg
CIFAR10 ?= cifar10.tar.xz

.PHONY: demo test fuzz lint format bench clean

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,dev]"
	touch $@

demo: .venv/installed
	$(BIN)/python examples/plot_label_efficiency.py --out demo

# Two processes of one thread each: the tests' products are too small to share among threads.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# Minutes per target; needs atheris, which has no wheels for every Python. What is found stays in fuzz/.
fuzz: .venv/installed
	$(BIN)/python -m pip install --quiet atheris
	for target in model model-settings checkpoint checkpoint-state image-header image-pixels deep-png; do \
		OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $$target fuzz/$$target -max_total_time=120 || exit 1; \
	done

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed
	for seed in 0 1 2; do $(BIN)/python benchmarks/cifar10.py $(CIFAR10) --setting cpu --seed $$seed || exit 1; done
	$(BIN)/python benchmarks/cifar10_report.py
	$(BIN)/python benchmarks/label_efficiency.py $(CIFAR10) --setting cpu
	$(BIN)/python benchmarks/ablation.py $(CIFAR10)
	$(BIN)/python benchmarks/variants.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/streaming.py
	$(BIN)/python benchmarks/augmentation.py
	$(BIN)/python benchmarks/label_efficiency_cost.py

clean:
	rm -rf .venv build demo *.egg-info
