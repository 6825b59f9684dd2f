"""What is fast: convolution, normalisation, clustering, pooling and masks; C++ and its cache."""
