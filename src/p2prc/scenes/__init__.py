"""Scenes to render: what a scene file says about itself, and the template that renders it."""
