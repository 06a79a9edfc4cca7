"""Config -> Run: the only room that knows both the names in a config and the objects behind them."""
