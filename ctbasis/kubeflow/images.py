"""The images that the compiled pipeline names; `make images` builds them under these names."""

VERSION = "0.1.0"
STEPS = f"ctbasis/steps:{VERSION}"
