"""The pipeline's steps, one folder a step: a thin typed KFP shell over a program that knows no KFP."""
