"""Columns fitted together by maximum likelihood: image model, noise, Fisher matrix, covariance."""
