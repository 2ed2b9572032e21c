"""What the scan did to an image, told from its lattice: affine, drift, jitter of the lines."""
