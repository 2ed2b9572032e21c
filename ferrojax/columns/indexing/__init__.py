"""Columns found roughly and named: sublattice and cell, through drift, strain, walls and seams."""
