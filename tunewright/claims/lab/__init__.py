"""The lab: small bases and tasks on which claims are run."""
