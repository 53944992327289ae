"""Low-dose chest CT denoised by a distributed stochastic SVD: the library and the command line."""
