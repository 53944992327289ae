"""The KFP components, one folder a step: a typed shell over one program of ctbasis/steps."""
