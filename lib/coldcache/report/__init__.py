"""Running the notebooks headless and writing one offline HTML report."""
