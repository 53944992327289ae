"""The demo: a chest phantom on a real S3 server, through the whole compiled pipeline."""
