"""Training of small models on the storybook world, in minutes on a GPU or in hours on a CPU."""
