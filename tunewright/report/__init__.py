"""From a run's measurements to what a person reads: `report.json`, the terminal's table and the page."""
