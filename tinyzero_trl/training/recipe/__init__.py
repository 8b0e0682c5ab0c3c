"""Recipes: reading them, their fields, and those that the package ships."""
