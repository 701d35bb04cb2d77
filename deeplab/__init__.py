"""The segmentation stage: DeepLab with a multi-scale loss, test, dense CRF and demo."""
