"""From a pool of candidate clips to a calibration set: NFDS (arXiv 2509.21302) and what it is compared with."""
