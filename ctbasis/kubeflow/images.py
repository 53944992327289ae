"""The container images that the compiled pipeline names. `make images` builds them under these names."""

from ctbasis.installed import VERSION

STEPS = f"ctbasis/steps:{VERSION}"
