"""Template tags: `{% load rooms %}`."""
