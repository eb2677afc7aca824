"""What stands beside every score: classical segmentation and a supervised network."""
