"""Cohorts: many series of any mix, from one source, each denoised on its own or with others of its geometry."""
