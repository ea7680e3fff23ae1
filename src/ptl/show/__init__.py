"""How people look at what `ptl` found: tables in the terminal and pages in the browser."""
