"""Layouts: typed columns of one date -> arrays. numpy only, one encoder for preparing and for predicting."""
