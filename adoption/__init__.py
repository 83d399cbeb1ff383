"""Pretrained models with DynFocus: stock video language models, and new models from backbones."""
