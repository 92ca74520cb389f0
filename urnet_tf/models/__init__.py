"""Networks: backbones, the classifier and the two-branch URNet."""
