"""The judge of storybook clips: what they show, and how they move, against the scenes that their prompts describe."""
