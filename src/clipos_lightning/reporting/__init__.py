"""From results to reports: tables, pages, pictures, Weights & Biases."""
