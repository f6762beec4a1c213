"""What is done to a change after training?"""
