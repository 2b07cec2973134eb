"""Models and weights that come from other frameworks, and go to them: one file or package per format."""
