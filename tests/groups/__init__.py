"""Leased worker groups under real Ray, with the dashboard off."""
