"""Speed and memory of this repository, as ratios to what the same machine reaches in the same run."""
