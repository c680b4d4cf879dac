"""What people and programs use at the cloud: requests by ticket, the inventory. It meets the gateway through topics."""
