"""The embedded default: emoji sprite sheet, word pieces, small weights, NOTICE."""
