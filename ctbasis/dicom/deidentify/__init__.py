"""De-identification by PS3.15 Annex E: headers leave a source's identity behind before any store has them."""
