"""What everything is made of: markets, users, offers and outcomes, and how input is checked."""
