"""`eto ui`: run directories as pages of a local web server. It reads plain files and writes none."""
