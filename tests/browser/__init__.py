"""The live page in headless Chromium, on real traffic. Run where chromium and chromedriver are installed."""
