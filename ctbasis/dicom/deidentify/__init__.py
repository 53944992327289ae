"""De-identification by PS3.15 Annex E: identifying attributes are removed from headers before any store holds them."""
