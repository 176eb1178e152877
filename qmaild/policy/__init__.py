"""Decisions: control data and a question in, an answer out. Pure."""
