"""What is minimised?"""
