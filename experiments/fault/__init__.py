"""Commands killed at random moments: small cases, and what they leave."""
