"""Feeding: from what a user gives as data to what the programs take."""
