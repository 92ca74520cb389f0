"""Networks: backbones, pretrained weight readers, the classifier and the two-branch URNet."""
