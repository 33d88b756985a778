"""The sections of a recipe, one module for each idea; `contracts/recipe.py` joins them."""
