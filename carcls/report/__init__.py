"""What a person reads: pictures, the page, the submission."""
