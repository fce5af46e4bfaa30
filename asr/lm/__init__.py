"""Language models: recurrent networks and word n-grams, trained, stored and measured."""
