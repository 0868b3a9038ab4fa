"""The storybook world: scenes with one or two moving actors, times of day, weather and a moving camera."""
