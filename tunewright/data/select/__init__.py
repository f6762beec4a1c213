"""Which rows are trained on?"""
