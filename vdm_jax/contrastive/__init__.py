"""The maths of contrastive image-text models: the loss, retrieval, zero-shot classification and calibration."""
