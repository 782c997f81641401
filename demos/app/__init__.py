"""The demo app: `python -m demos.app --model lab`, or `make app`."""
